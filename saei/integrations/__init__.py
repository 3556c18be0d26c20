"""Our sampling inside other people's trainers."""

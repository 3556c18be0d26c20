"""The groups of settings that make up a config; `saei.config` brings them together."""

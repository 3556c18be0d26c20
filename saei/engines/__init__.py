"""Rollout engines: what samples completions. `completing.complete` is the one way in; `docs` of each file say the rest.

Nothing is imported here: an engine's worker runs in an environment of its own, which has no package of ours but
`saei.engines.frames`.
"""

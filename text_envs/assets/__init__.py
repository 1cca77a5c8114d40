"""Small bundled artefacts, and the scripts that made them (`build_*`).

The files are read by path (`text_envs.tokens.assets`), so that nothing imports this folder; its
scripts may import everything.
"""

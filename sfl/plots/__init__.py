"""Pictures of one run: its curves, and what its network has learnt."""

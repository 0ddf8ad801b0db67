"""Pictures of what one run has learnt."""

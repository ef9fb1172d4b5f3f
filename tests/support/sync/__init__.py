"""The model, the world and the steps of the sync state machine test."""

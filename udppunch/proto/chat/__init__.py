"""The chat: who is who, what was said, and whether it arrived."""

"""Conversations: messages, the chat template, tools and replies."""

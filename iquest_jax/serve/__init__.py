"""Offers a model as an endpoint in the form of OpenAI's API: chats and completions, streamed or whole."""

"""The server's APIs: what they take, and how they answer."""

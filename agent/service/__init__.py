"""The HTTP door: searched answers for programs that speak OpenAI's protocol."""

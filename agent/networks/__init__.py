"""What a language model is: one file a family, for training and for inference."""

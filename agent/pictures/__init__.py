"""Pictures that problems come with: read safely, kept by digest, made what a network takes."""

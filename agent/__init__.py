"""Where the parts meet: configuration, engine, Ray actors, rounds, command line."""

"""One file per problem domain."""

"""A trained model in use: on new pictures, one by one or by the hundred thousand."""

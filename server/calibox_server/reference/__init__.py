"""The pages `/docs` and `/redoc`: the OpenAPI document to read and to try, without any other host."""

"""calibox beside other servers: a detector without a contract of its own as a bundle, and how it is served."""

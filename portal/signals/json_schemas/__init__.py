"""What payloads of a signal type must look like: JSON Schemas, versioned."""

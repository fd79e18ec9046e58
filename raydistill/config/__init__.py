"""The room of configuration: frozen typed sections, strict YAML in and out, fingerprints."""

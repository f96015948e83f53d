"""The configuration file: its types, its loading, its secrets, its template."""

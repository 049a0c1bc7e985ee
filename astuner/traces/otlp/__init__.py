"""OTLP, the protocol of OpenTelemetry, as files and as bodies of requests, into spans and events.

Knows no vocabulary.
"""

"""Serves environments over HTTP. `app` reads and answers, `instances` knows who lives, and in each
`process` there is one environment."""

"""The process shell: settings, wiring, command line, web application, jobs, desktop and API."""

"""What extending a model would take and give: methods, frequencies, memory, servers, and a recommendation.

Everything is told from a config, the published figures in `published.py` and this project's own in `reach.json`;
no weights are loaded, and only numbers from the sources named are called expectations.
"""

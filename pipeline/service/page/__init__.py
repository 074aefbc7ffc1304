"""The page: what people see of a deployment in a browser, made on the server, with one script and one style of ours.

Belongs here: HTML, its style and script, the session of a browser, links that share one batch. Does not belong here:
what can be asked and done, which the API has (pipeline.service.routes) and the page's script asks it for.
"""

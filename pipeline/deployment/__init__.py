"""What one deployment is: its settings, tenants, layouts and costs, and what it tells its clients about itself.

Does not belong here: what one batch asks for (promptset).
"""

"""How the demo model in `models/demo` was made, from nothing: scenes, captions, three networks, a directory.

What belongs here: drawing the training pictures, training, writing the directory, measuring whether it paints what a
prompt says. The product's packages import nothing from here, and nothing here is in the wheel.
"""

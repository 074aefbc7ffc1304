"""Networks that steer a picture by another one's edges, depth or pose, as their files hold them."""

"""The method, tensors in and tensors out: weights of pixels, views and their ensemble, losses, mean teacher."""

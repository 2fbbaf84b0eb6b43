"""The method: MLB-Seg. Uses torch, MONAI, numpy and scipy; knows no viewer, no file format and no job folder.

Importing this package loads none of them; its modules that need torch say so by importing it at their top.
"""

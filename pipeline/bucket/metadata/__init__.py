"""What is written into an image's file for others to read: the web UIs' parameters, and the EXIF that holds them.

Which format has what, and who reads it: docs/metadata.md. Our own record and the file itself are
`pipeline.bucket.imagefile`.
"""

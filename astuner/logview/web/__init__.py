"""The pages in a browser: an application, what stands before it, and how it is served."""

"""Container images of a commit: built by BuildKit from what Pants packaged, found again by their inputs' digest."""

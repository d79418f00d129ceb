"""Images: pulled, verified, unpacked once a layer."""

from agent.images.content import Image
from agent.images.images import ImageError, Images, Registries
from bayplan.oci.manifest import ImageConfig

__all__ = ["Image", "ImageConfig", "ImageError", "Images", "Registries"]

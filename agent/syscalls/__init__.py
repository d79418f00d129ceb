"""ctypes wrappers of Linux system calls, one module a family; they know no domain.

Every wrapper raises OSError whose text names the call. Nothing here starts a thread or imports
anything lazily: the modules are used in children made by a raw clone3.
"""

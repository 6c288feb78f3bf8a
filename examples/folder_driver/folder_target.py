from folder_driver import FolderCheckpointer


def target(location: str) -> FolderCheckpointer:
    return FolderCheckpointer(location)

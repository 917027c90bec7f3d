def load_prepared(name, data_dir):
    raise FileNotFoundError(name)

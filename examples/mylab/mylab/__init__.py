"""Parts of somebody's own for alphabar, each a class here and a YAML file in conf/."""

"""Routes, login, errors and the status page. May import everything else in
``backend`` except ``label_studio_ml``."""

from tests.conftest import import_keras_for_good

import_keras_for_good()

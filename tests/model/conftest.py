from tests.conftest import begin_tensorflow_quickly

begin_tensorflow_quickly()

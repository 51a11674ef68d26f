#include "core/nn/module.h"

namespace yard {

Parameter Parameter::whole(std::string name, Shape shape, Init init) {
  Parameter result;
  result.slices = {{name, 0, shape[0]}};
  result.name = std::move(name);
  result.shape = shape;
  result.init = init;
  return result;
}

Parameter Parameter::vector(std::string name, Index length, Init init) {
  Parameter result = whole(std::move(name), {length}, init);
  result.full_precision = true;
  result.decay = false;
  return result;
}

}  // namespace yard

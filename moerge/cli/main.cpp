#include "moerge/base/parallel.h"
#include "moerge/cli/command.h"

int main(int count, char** arguments) {
  moerge::install_interrupt_handler();
  return moerge::run_program(count > 0 ? arguments[0] : "moerge",
                             {arguments + (count > 0), arguments + count});
}

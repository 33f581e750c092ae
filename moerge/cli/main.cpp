#include <fcntl.h>

#include "moerge/base/interrupt.h"
#include "moerge/cli/command.h"

int main(int count, char** arguments) {
  // A caller may have closed these; the first files of a run must not take their place.
  for (int fd = 0; fd <= 2; fd++)
    if (fcntl(fd, F_GETFD) < 0) (void)open("/dev/null", O_RDWR);
  moerge::install_interrupt_handler();
  return moerge::run_program(count > 0 ? arguments[0] : "moerge",
                             {arguments + (count > 0), arguments + count});
}

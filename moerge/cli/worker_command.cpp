// moerge worker: a machine that computes layers for others.

#include <fmt/format.h>

#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/serve/rpc.h"

namespace moerge {

int run_worker_command(std::string_view program, const std::vector<std::string>& arguments) {
  WorkerOptions options;
  CLI::App app(
      "Lends this machine's memory and processor (or graphics card) to a `moerge chat` or `moerge serve` "
      "elsewhere,\n"
      "for models that are larger than one machine. The model file is only needed there; the layers are "
      "sent\n"
      "over the network when it starts.\n\n"
      "example:  on two other machines       moerge worker --host 0.0.0.0\n"
      "          where the model file is     moerge chat big.gguf --rpc 192.168.1.5:50052,192.168.1.6:50052\n"
      "          only the experts elsewhere  moerge chat big.gguf --rpc 192.168.1.5:50052 --gpu-layers all "
      "\\\n"
      "                                        --override-tensor "
      "'ffn_.*_exps=RPC0[192.168.1.5:50052],.*=CPU'\n\n"
      "All machines need the same version of moerge. There is no password and no encryption: whoever reaches "
      "the\n"
      "port can use this machine. Never open it to a network that others are in.\n",
      std::string(program));
  app.add_option("--host", options.host, "address to listen on; 0.0.0.0: all networks (127.0.0.1)");
  app.add_option("--port", options.port, "port (50052)")->check(CLI::Range(1, 65535));
  app.add_option("-t,--threads", options.threads, "threads (all cores)")->check(CLI::Range(1, 1024));
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(Verbosity::normal);
  if (options.host != "127.0.0.1" && options.host != "localhost")
    reporter.warning(fmt::format("whoever reaches {}:{} can use this machine: the protocol has no password",
                                 options.host, options.port));
  run_worker(options, [&](const std::string& devices) {
    print_error_line(
        fmt::format("moerge worker at {}:{} on {}; ctrl-C ends it", options.host, options.port, devices));
  });
  return 0;
}

}  // namespace moerge

# make: the program in build/release/moerge.  make demo, make test: see README.md.
jobs := $(shell nproc)
export PATH := $(PATH):$(HOME)/.cargo/bin
# Spinning OpenMP threads collapse when another process wants a core.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: all setup build demo test sanitize sanitize-threads sanitize-readers format clean
all: build

setup:
	@tools/setup.sh

build: setup
	@test -f build/release/build.ninja || cmake --preset release > build-release.log 2>&1 || { cat build-release.log; rm -f build-release.log; exit 1; }
	@rm -f build-release.log
	@cmake --build --preset release -j $(jobs)

demo: build
	@examples/family/demo.sh build/release/moerge

# Everything that CI checks, with sanitize-readers.
test: build
	@tools/check_layers.py
	@ctest --preset release

# The same tests under sanitizers, each a build of its own, longer than CI may take: address and undefined behaviour; threads.
sanitize: preset := dev
sanitize-threads: preset := thread
sanitize sanitize-threads: setup
	@cmake --preset $(preset) > /dev/null
	@cmake --build --preset $(preset) -j $(jobs)
	@ctest --preset $(preset)

# What reads hostile files, under the address and undefined-behaviour sanitizers: its tests and the fuzzers' corpora.
sanitize-readers: setup
	@cmake --preset dev > /dev/null
	@cmake --build --preset dev -j $(jobs) --target readers
	@ctest --preset dev -L '^(base|formats|model)$$'

format:
	@git ls-files '*.h' '*.cpp' | xargs clang-format -i

clean:
	@rm -rf build

// The entry point of the C++ tests. It holds no test: those are in test_*.cpp, one file per
// subject.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

# The CPU kernels, one source compiled once per instruction set; isa.cpp lists the tables and picks
# one at run time. Included before the backend layer's library is made: edits `sources`.
set(isa_dir ${CMAKE_CURRENT_SOURCE_DIR}/cpp/backend/cpu)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  set(isas scalar avx2 avx512 amx)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(isas scalar neon)
else()
  set(isas scalar)
endif()
if(A2SF_BUILD_FUZZERS)
  # Fuzzers look for what files can do; instrumented kernels take minutes to compile.
  set(isas scalar)
  set_source_files_properties(${isa_dir}/isa.cpp PROPERTIES COMPILE_DEFINITIONS A2SF_SCALAR_ONLY)
endif()
set(isa_flags_scalar "")
set(isa_flags_avx2 -mavx2 -mfma -mf16c)
# GCC 12 takes its own headers' _mm512_undefined_ps() for a use without a value (its bug 105593).
set(isa_flags_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c
                     -Wno-uninitialized -Wno-maybe-uninitialized)
set(isa_flags_amx -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mamx-tile
                  -mamx-bf16 -mfma -mf16c -Wno-uninitialized -Wno-maybe-uninitialized
                  -Wno-unused-function)  # what the tables have in common is avx512's
set(isa_flags_neon -march=armv8.2-a+dotprod)

list(FILTER sources EXCLUDE REGEX "/backend/cpu/isa_[a-z0-9]+\\.cpp$")
foreach(isa ${isas})
  # No exceptions: their tables would refer to a symbol that all objects share.
  set(isa_flags ${isa_flags_${isa}} -fno-exceptions)
  # Unpacking and the tiles count on unrolling. Debug builds stay debuggable (and are checked with
  # nm for symbols that two instruction sets would share).
  if(CMAKE_BUILD_TYPE STREQUAL "Debug")
    list(APPEND isa_flags -DA2SF_NO_UNROLL)
  else()
    list(APPEND isa_flags -O3)
  endif()
  list(APPEND sources ${isa_dir}/isa_${isa}.cpp)
  set_source_files_properties(${isa_dir}/isa_${isa}.cpp PROPERTIES COMPILE_OPTIONS "${isa_flags}")
endforeach()

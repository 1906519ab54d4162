# The CUDA backend where A2SF_CUDA asks for it; else one file that says it is not there. Included
# before the backend layer's library is made: edits `sources`.
set(cuda_dir ${CMAKE_CURRENT_SOURCE_DIR}/cpp/backend/cuda)
file(GLOB cuda_kernels CONFIGURE_DEPENDS ${cuda_dir}/*.cu)
file(GLOB cuda_host CONFIGURE_DEPENDS ${cuda_dir}/*.cpp)
list(REMOVE_ITEM sources ${cuda_host})
list(REMOVE_ITEM cuda_host ${cuda_dir}/cuda_missing.cpp)

if(NOT A2SF_CUDA)
  list(APPEND sources ${cuda_dir}/cuda_missing.cpp)
  return()
endif()
# Where the toolkit is put, which is not always on PATH.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(A2SF_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
    PATH_SUFFIXES bin)
  if(A2SF_NVCC)
    set(CMAKE_CUDA_COMPILER ${A2SF_NVCC})
  endif()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR
    "A2SF_CUDA: nvcc of the CUDA toolkit expected (on PATH, or named by CUDACXX), found none. "
    "Without A2SF_CUDA a2sf is built for the CPU alone.")
endif()
# Cards with the common names, Jetson Orin (87), data centres (90); code for any later one is made
# from that of 8.0 when the program starts. What an older nvcc does not know is left out.
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE nvcc_says)
string(REGEX MATCH "release ([0-9.]+)" nvcc_release "${nvcc_says}")
set(nvcc_version "${CMAKE_MATCH_1}")
if(nvcc_version VERSION_LESS 12.0)
  message(FATAL_ERROR
    "A2SF_CUDA: nvcc 12.0 or later expected, for C++20, found '${nvcc_version}' "
    "(${CMAKE_CUDA_COMPILER}).")
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES 86-real 87-real 89-real 90-real 80-virtual)
  if(nvcc_version VERSION_GREATER_EQUAL 12.8)
    list(APPEND CMAKE_CUDA_ARCHITECTURES 120-real)
  endif()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(A2SF_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${A2SF_CCACHE})
endif()
list(APPEND sources ${cuda_kernels} ${cuda_host})
set_source_files_properties(${cuda_kernels} PROPERTIES
  COMPILE_OPTIONS "-Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers")

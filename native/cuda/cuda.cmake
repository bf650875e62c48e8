# The CUDA kernels, twice: compiled by nvcc into libqwen3_cuda.so (npm run build:cuda), and by the host compiler against
# native/cuda/emulate, for the tests (npm run test:cuda). Neither is part of a plain build.
option(QWEN3_CUDA_TESTS "Build the CUDA kernels for the host emulation, and their tests" OFF)

file(GLOB QWEN3_CUDA_KERNELS CONFIGURE_DEPENDS native/cuda/*.cu)

if(QWEN3_CUDA_TESTS)
  # A .cu file becomes C++ by being included: the file itself stays free for nvcc in the same build.
  set(QWEN3_EMULATED_KERNELS)
  foreach(kernel ${QWEN3_CUDA_KERNELS})
    get_filename_component(name ${kernel} NAME_WE)
    set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cc)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"cuda/${name}.cu\"\n")
    list(APPEND QWEN3_EMULATED_KERNELS ${wrapper})
  endforeach()
  file(GLOB QWEN3_EMULATION CONFIGURE_DEPENDS native/cuda/emulate/*.cc)
  add_library(qwen3_cuda_emulated STATIC ${QWEN3_EMULATION} ${QWEN3_EMULATED_KERNELS})
  target_include_directories(qwen3_cuda_emulated PUBLIC native)
  target_compile_options(qwen3_cuda_emulated PUBLIC -Wno-psabi PRIVATE -Werror -g1)
  target_link_libraries(qwen3_cuda_emulated PUBLIC qwen3_engine)
  enable_testing()
  file(GLOB QWEN3_CUDA_TEST_SOURCES CONFIGURE_DEPENDS test/native/cuda_*_test.cc)
  foreach(source ${QWEN3_CUDA_TEST_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    target_link_libraries(${name} PRIVATE qwen3_cuda_emulated)
    add_test(NAME ${name} COMMAND ${name})
  endforeach()
endif()

# Everything CUDA. The addon's side (client/) is part of the engine library and needs no CUDA. The kernels are compiled
# twice: by nvcc into libqwen3_cuda.so (npm run build:cuda), and by the host compiler against native/cuda/emulate for the
# tests (npm run test:cuda). Neither is part of a plain build.
option(QWEN3_CUDA "Build libqwen3_cuda.so (needs nvcc of CUDA 13)" OFF)
option(QWEN3_CUDA_TESTS "Build the CUDA kernels for the host emulation, and their tests" OFF)
# Real architectures; 90a has kernels of its own, the others take the mma.sync path. PTX of 8.0 is always included, for
# chips that did not exist when this was built.
set(QWEN3_CUDA_ARCHITECTURES "80;86;89;90a;100;120" CACHE STRING "Architectures of libqwen3_cuda.so")

file(GLOB QWEN3_CUDA_CLIENT CONFIGURE_DEPENDS native/cuda/client/*.cc)
target_sources(qwen3_engine PRIVATE ${QWEN3_CUDA_CLIENT})

file(GLOB QWEN3_CUDA_KERNELS CONFIGURE_DEPENDS native/cuda/*.cu)
file(GLOB QWEN3_CUDA_LIBRARY CONFIGURE_DEPENDS native/cuda/*.cc)
file(READ package.json QWEN3_PACKAGE)
string(JSON QWEN3_PACKAGE_VERSION GET "${QWEN3_PACKAGE}" version)

if(QWEN3_CUDA)
  # By custom commands: CMake's own CUDA support would ask for nvcc in builds that do not want it, and 90a beside 80.
  find_program(QWEN3_NVCC nvcc HINTS /usr/local/cuda/bin REQUIRED)
  set(nvcc_flags -std=c++20 -O3 -x cu -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wno-psabi -Werror all-warnings
    -I${CMAKE_CURRENT_SOURCE_DIR}/native -DQWEN3_VERSION="${QWEN3_PACKAGE_VERSION}" --threads 0
    -Xfatbin=-compress-all -gencode arch=compute_80,code=compute_80)
  foreach(architecture ${QWEN3_CUDA_ARCHITECTURES})
    list(APPEND nvcc_flags -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  file(GLOB QWEN3_CUDA_HEADERS CONFIGURE_DEPENDS native/cuda/*.h native/cuda/ptx/*.h native/core/*.h native/ops/*.h)
  set(QWEN3_CUDA_OBJECTS)
  foreach(source ${QWEN3_CUDA_KERNELS} ${QWEN3_CUDA_LIBRARY} ${CMAKE_CURRENT_SOURCE_DIR}/native/cuda/device/runtime.cu
      ${CMAKE_CURRENT_SOURCE_DIR}/native/core/status.cc)
    get_filename_component(name ${source} NAME)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/cuda
      COMMAND ${QWEN3_NVCC} ${nvcc_flags} -c ${source} -o ${object}
      DEPENDS ${source} ${QWEN3_CUDA_HEADERS} VERBATIM COMMENT "nvcc ${name}")
    list(APPEND QWEN3_CUDA_OBJECTS ${object})
  endforeach()
  set(library ${CMAKE_CURRENT_BINARY_DIR}/libqwen3_cuda.so)
  add_custom_command(OUTPUT ${library}
    COMMAND ${QWEN3_NVCC} -shared -cudart static -Xlinker --exclude-libs,ALL -Xlinker --no-undefined
      ${QWEN3_CUDA_OBJECTS} -o ${library}
    DEPENDS ${QWEN3_CUDA_OBJECTS} VERBATIM COMMENT "libqwen3_cuda.so")
  add_custom_target(qwen3_cuda ALL DEPENDS ${library})
endif()

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
  add_library(qwen3_cuda_emulated STATIC ${QWEN3_EMULATION} ${QWEN3_EMULATED_KERNELS} ${QWEN3_CUDA_LIBRARY})
  target_include_directories(qwen3_cuda_emulated PUBLIC native)
  target_compile_definitions(qwen3_cuda_emulated PRIVATE QWEN3_VERSION="${QWEN3_PACKAGE_VERSION}")
  target_compile_options(qwen3_cuda_emulated PUBLIC -Wno-psabi PRIVATE -Werror -g1)
  target_link_libraries(qwen3_cuda_emulated PUBLIC qwen3_engine)
  # The library as the addon opens it, with the emulation for a device.
  add_library(qwen3_cuda_emulated_library SHARED $<TARGET_OBJECTS:qwen3_cuda_emulated> native/core/status.cc)
  target_include_directories(qwen3_cuda_emulated_library PRIVATE native)
  set_target_properties(qwen3_cuda_emulated_library PROPERTIES OUTPUT_NAME qwen3_cuda_emulated)

  enable_testing()
  file(GLOB QWEN3_CUDA_TEST_SOURCES CONFIGURE_DEPENDS test/native/cuda_*_test.cc)
  foreach(source ${QWEN3_CUDA_TEST_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    if(name STREQUAL "cuda_backend_test")  # goes through the library's door, as the addon does
      target_link_libraries(${name} PRIVATE qwen3_engine)
      add_dependencies(${name} qwen3_cuda_emulated_library)
    else()
      target_link_libraries(${name} PRIVATE qwen3_cuda_emulated)
    endif()
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES
      ENVIRONMENT "QWEN3_CUDA_LIBRARY=$<TARGET_FILE:qwen3_cuda_emulated_library>")
  endforeach()
endif()

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
file(GLOB QWEN3_GPU_BENCH CONFIGURE_DEPENDS bench/gpu/*.cc)
set(QWEN3_GPU_BENCH_KERNELS ${CMAKE_CURRENT_SOURCE_DIR}/bench/gpu/limits.cu)
file(READ package.json QWEN3_PACKAGE)
string(REGEX MATCH "\"version\": \"([^\"]+)\"" QWEN3_PACKAGE "${QWEN3_PACKAGE}")
set(QWEN3_PACKAGE_VERSION ${CMAKE_MATCH_1})

# What gpu_bench is on a device and on the emulation: all but its clock and its main file, which names the library.
set(gpu_bench_main ${QWEN3_GPU_BENCH})
list(FILTER gpu_bench_main INCLUDE REGEX "/gpu_bench\\.cc$")
if(QWEN3_GPU_BENCH AND (QWEN3_CUDA OR QWEN3_CUDA_TESTS))
  set(gpu_bench_cases ${QWEN3_GPU_BENCH})
  list(FILTER gpu_bench_cases EXCLUDE REGEX "/(gpu_bench|clock_[a-z]+)\\.cc$")
  add_library(gpu_bench_cases OBJECT EXCLUDE_FROM_ALL ${gpu_bench_cases})
  target_include_directories(gpu_bench_cases PRIVATE native)
endif()

if(QWEN3_CUDA)
  # Kernels by custom commands: CMake's own CUDA support would ask for nvcc in builds that do not want it, and cannot name
  # 90a beside 80. Host code is compiled like everything else.
  find_program(QWEN3_NVCC nvcc HINTS /usr/local/cuda/bin REQUIRED)
  get_filename_component(QWEN3_CUDA_ROOT ${QWEN3_NVCC} REALPATH)
  get_filename_component(QWEN3_CUDA_ROOT ${QWEN3_CUDA_ROOT}/../.. ABSOLUTE)
  find_library(QWEN3_CUDART cudart_static REQUIRED
    HINTS ${QWEN3_CUDA_ROOT} /usr/local/cuda PATH_SUFFIXES lib64 targets/x86_64-linux/lib targets/sbsa-linux/lib)
  # -fmad stays on: device results are held to bounds, not to the host's bits.
  set(nvcc_flags -std=c++20 -O3 -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wno-psabi -Werror all-warnings
    -I${CMAKE_CURRENT_SOURCE_DIR}/native -Xptxas=-warn-spills,-v -lineinfo -Xfatbin=-compress-all
    -gencode arch=compute_80,code=compute_80)
  foreach(architecture ${QWEN3_CUDA_ARCHITECTURES})
    list(APPEND nvcc_flags -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  if("90a" IN_LIST QWEN3_CUDA_ARCHITECTURES)
    list(APPEND nvcc_flags -DQWEN3_HAS_SM90A)
  endif()
  file(GLOB QWEN3_CUDA_HEADERS CONFIGURE_DEPENDS native/cuda/*.h native/cuda/ptx/*.h native/core/*.h native/ops/*.h)
  set(QWEN3_CUDA_OBJECTS)
  set(gpu_bench_objects)
  foreach(source ${QWEN3_CUDA_KERNELS} ${CMAKE_CURRENT_SOURCE_DIR}/native/cuda/device/runtime.cu
      ${QWEN3_GPU_BENCH_KERNELS})
    get_filename_component(name ${source} NAME_WE)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
    set(more_flags)
    if(name MATCHES "^sampling")  # exp and log of the sampler must give the host's bits
      set(more_flags -fmad=false)
    endif()
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/cuda
      # What ptxas says of registers and stacks is kept for scripts/check-ptxas.mjs.
      COMMAND sh -c "\"$@\" > \"$0\" 2>&1 || (cat \"$0\" && false)" ${object}.log
        ${QWEN3_NVCC} ${nvcc_flags} ${more_flags} -c ${source} -o ${object}
      DEPENDS ${source} ${QWEN3_CUDA_HEADERS} VERBATIM COMMAND_EXPAND_LISTS COMMENT "nvcc ${name}.cu")
    if(source IN_LIST QWEN3_GPU_BENCH_KERNELS)
      list(APPEND gpu_bench_objects ${object})
    else()
      list(APPEND QWEN3_CUDA_OBJECTS ${object})
    endif()
  endforeach()
  add_library(qwen3_cuda SHARED ${QWEN3_CUDA_LIBRARY} native/core/status.cc ${QWEN3_CUDA_OBJECTS})
  target_include_directories(qwen3_cuda PRIVATE native)
  target_compile_definitions(qwen3_cuda PRIVATE QWEN3_VERSION="${QWEN3_PACKAGE_VERSION}")
  target_link_options(qwen3_cuda PRIVATE -static-libstdc++ -static-libgcc)
  target_link_libraries(qwen3_cuda PRIVATE ${QWEN3_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt
    -Wl,--exclude-libs,ALL -Wl,--no-undefined)

  # The kernels' tests for a GPU (not part of ctest: it needs one). The npm package has the library's sources alone.
  if(QWEN3_GPU_BENCH)
    add_executable(gpu_check EXCLUDE_FROM_ALL test/native/gpu_check.cc native/cuda/schedule.cc ${QWEN3_CUDA_OBJECTS})
    foreach(part ops stream attention moe sampling backend model loop)
      add_library(gpu_check_${part} OBJECT EXCLUDE_FROM_ALL test/native/cuda_${part}_test.cc)
      target_include_directories(gpu_check_${part} PRIVATE native)
      target_include_directories(gpu_check_${part} SYSTEM PRIVATE ${QWEN3_CUDA_ROOT}/include)
      target_compile_definitions(gpu_check_${part} PRIVATE QWEN3_GPU_CHECK main=cuda_${part}_main)
      target_compile_options(gpu_check_${part} PRIVATE -Wno-psabi)
      target_sources(gpu_check PRIVATE $<TARGET_OBJECTS:gpu_check_${part}>)
    endforeach()
    target_compile_definitions(gpu_check PRIVATE QWEN3_CUDA_LIBRARY_FILE="$<TARGET_FILE:qwen3_cuda>")
    target_link_libraries(gpu_check PRIVATE qwen3_engine ${QWEN3_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
    add_dependencies(gpu_check qwen3_cuda)
    add_executable(gpu_bench EXCLUDE_FROM_ALL ${gpu_bench_main} bench/gpu/clock_device.cc native/cuda/schedule.cc
      $<TARGET_OBJECTS:gpu_bench_cases> ${QWEN3_CUDA_OBJECTS} ${gpu_bench_objects})
    target_include_directories(gpu_bench PRIVATE native)
    target_include_directories(gpu_bench SYSTEM PRIVATE ${QWEN3_CUDA_ROOT}/include)
    target_compile_definitions(gpu_bench PRIVATE QWEN3_CUDA_LIBRARY_FILE="$<TARGET_FILE:qwen3_cuda>")
    target_link_libraries(gpu_bench PRIVATE qwen3_engine ${QWEN3_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
    add_dependencies(gpu_bench qwen3_cuda)
  endif()
endif()

if(QWEN3_CUDA_TESTS)
  # A .cu file becomes C++ by being included: the file itself stays free for nvcc in the same build.
  set(QWEN3_EMULATED_KERNELS)
  set(gpu_bench_emulated_kernels)
  foreach(kernel ${QWEN3_CUDA_KERNELS} ${QWEN3_GPU_BENCH_KERNELS})
    get_filename_component(name ${kernel} NAME_WE)
    set(wrapper ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cc)
    file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${kernel}\"\n")
    if(kernel IN_LIST QWEN3_GPU_BENCH_KERNELS)
      list(APPEND gpu_bench_emulated_kernels ${wrapper})
    else()
      list(APPEND QWEN3_EMULATED_KERNELS ${wrapper})
    endif()
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

  # gpu_bench's own logic at tiny shapes (test/gpu-bench.test.ts).
  add_executable(gpu_bench_emulated ${gpu_bench_main} bench/gpu/clock_emulated.cc ${gpu_bench_emulated_kernels}
    $<TARGET_OBJECTS:gpu_bench_cases>)
  target_compile_definitions(gpu_bench_emulated PRIVATE
    QWEN3_CUDA_LIBRARY_FILE="$<TARGET_FILE:qwen3_cuda_emulated_library>")
  target_link_libraries(gpu_bench_emulated PRIVATE qwen3_cuda_emulated)
  add_dependencies(gpu_bench_emulated qwen3_cuda_emulated_library)

  enable_testing()
  add_library(qwen3_cuda_other_version SHARED test/native/cuda_other_version.cc)
  target_include_directories(qwen3_cuda_other_version PRIVATE native)
  file(GLOB QWEN3_CUDA_TEST_SOURCES CONFIGURE_DEPENDS test/native/cuda_*_test.cc)
  foreach(source ${QWEN3_CUDA_TEST_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    add_executable(${name} ${source})
    if(name MATCHES "^cuda_(backend|launch|loop|model)_test$")  # through the library's door, as the addon goes
      target_link_libraries(${name} PRIVATE qwen3_engine)
      add_dependencies(${name} qwen3_cuda_emulated_library)
    else()
      target_link_libraries(${name} PRIVATE qwen3_cuda_emulated)
    endif()
    add_test(NAME ${name} COMMAND ${name})
    set(environment QWEN3_CUDA_LIBRARY=$<TARGET_FILE:qwen3_cuda_emulated_library>
      QWEN3_CUDA_OTHER_VERSION=$<TARGET_FILE:qwen3_cuda_other_version>)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "${environment}")
  endforeach()
endif()

# SPDX-License-Identifier: BSD-3-Clause
# Images found in other projects are read right.

load lib/common

@test "version 1.1 with a short header and unaligned data, by an old qemu" {
  corpus basic.vdi
  assert_equal "$(hash_served vdi "$image")" \
    92d551781f9b62f3c8601ffd375cc7547efb1127e3cd2acc652f50f2d31afb8c
}

/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C helpers of vfs/: what the kernel offers only as a macro or a static
 * inline, and the few places where kernel versions differ.
 *
 * bindgen reads this header; every function is declared here and nowhere else.
 */
#ifndef _VFS_HELPERS_H
#define _VFS_HELPERS_H

#include <linux/backing-file.h>
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/seq_file.h>
#include <linux/signal.h>
#include <linux/statfs.h>
#include <linux/types.h>

struct address_space;
struct backing_file_ctx;
struct cdev;
struct module;

/* macros that bindgen cannot evaluate, or that are not in kernel::bindings */
enum vfs_consts {
	VFS_FALLOC_FL_WRITE_ZEROES = FALLOC_FL_WRITE_ZEROES,
	VFS_BTRFS_SUPER_MAGIC = BTRFS_SUPER_MAGIC,
	VFS_EXT4_SUPER_MAGIC = EXT4_SUPER_MAGIC,
	VFS_TMPFS_MAGIC = TMPFS_MAGIC,
	VFS_XFS_SUPER_MAGIC = XFS_SUPER_MAGIC,
	VFS_IOCB_DSYNC = (__force int)IOCB_DSYNC,
	VFS_IOCB_DIRECT = (__force int)IOCB_DIRECT,
	VFS_IOCB_NOWAIT = (__force int)IOCB_NOWAIT,
	VFS_IOCB_WRITE = (__force int)IOCB_WRITE,
	VFS_SB_NOATIME = SB_NOATIME,
	VFS_LOOKUP_RCU = LOOKUP_RCU,
	VFS_FMODE_CREATED = (__force int)FMODE_CREATED,
	VFS_FMODE_NOWAIT = (__force int)FMODE_NOWAIT,
	VFS_FMODE_WRITE = (__force int)FMODE_WRITE,
	VFS_FMODE_CAN_ODIRECT = (__force int)FMODE_CAN_ODIRECT,
};

/* Which members of struct vfs_attr are meant. */
#define VFS_ATTR_MODE	0x001u
#define VFS_ATTR_UID	0x002u
#define VFS_ATTR_GID	0x004u
#define VFS_ATTR_NLINK	0x008u
#define VFS_ATTR_SIZE	0x010u
#define VFS_ATTR_ATIME	0x020u
#define VFS_ATTR_MTIME	0x040u
#define VFS_ATTR_CTIME	0x080u

/*
 * Attributes of an inode as they come from, or go to, a remote party: ids are
 * those of the initial user namespace, a size is in bytes.
 */
struct vfs_attr {
	u32 valid;
	u32 mode;
	u32 uid;
	u32 gid;
	u32 nlink;
	u64 rdev;
	s64 size;
	s64 atime_sec;
	s64 mtime_sec;
	s64 ctime_sec;
	s64 atime_nsec;
	s64 mtime_nsec;
	s64 ctime_nsec;
};

/* inode.c side */
void vfsh_inode_set_attr(struct inode *inode, const struct vfs_attr *attr);
void vfsh_inode_set_size(struct inode *inode, loff_t size);
void vfsh_inode_copy_size(struct inode *inode, const struct inode *from);
loff_t vfsh_inode_size(const struct inode *inode);
bool vfsh_mapping_may_be_pinned(struct address_space *mapping);
void vfsh_inode_touch(struct inode *inode);
void vfsh_inode_inc_nlink(struct inode *inode);
void vfsh_inode_drop_nlink(struct inode *inode);
void vfsh_inode_clear_nlink(struct inode *inode);
void vfsh_inode_rehash(struct inode *inode, u64 hash);
void vfsh_inode_unhash(struct inode *inode);
bool vfsh_inode_is_new(struct inode *inode);
bool vfsh_inode_is_sync(struct inode *inode);
bool vfsh_inode_is_dax(const struct inode *inode);
void vfsh_inode_lock(struct inode *inode);
bool vfsh_inode_trylock(struct inode *inode);
void vfsh_inode_unlock(struct inode *inode);
void vfsh_inode_special(struct inode *inode, u64 rdev);
void vfsh_inode_make_symlink(struct inode *inode,
			    const struct address_space_operations *aops);
void *vfsh_alloc_inode(struct super_block *sb, struct kmem_cache *cache);
struct kmem_cache *vfsh_inode_cache_create(const char *name, unsigned int size,
					  unsigned int align,
					  void (*ctor)(void *obj));
void *vfsh_folio_address(struct folio *folio);
struct inode *vfsh_folio_host(struct folio *folio);
void vfsh_iattr_to_attr(const struct iattr *iattr, struct vfs_attr *attr);
void vfsh_fillattr(u32 request_mask, struct inode *inode, struct kstat *stat);

/* dcache */
void vfsh_dentry_visit_children(struct dentry *parent,
				void (*visit)(struct inode *inode, void *arg),
				void *arg);
unsigned int vfsh_dentry_count(const struct dentry *dentry);
struct inode *vfsh_dentry_inode(const struct dentry *dentry);

int vfsh_user_path(const char __user *name, bool follow, struct path *path);

/* super block */
void vfsh_sb_init(struct super_block *sb, unsigned long magic,
		 const struct super_operations *s_op,
		 const struct dentry_operations *d_op);
bool vfsh_sb_has_inodes(struct super_block *sb);
int vfsh_fc_fd_param(struct fs_context *fc,
		    const struct fs_parameter_spec *specs,
		    struct fs_parameter *param, struct file **file);
void vfsh_fc_error(struct fs_context *fc, const char *name, const char *message);
void vfsh_fd_spec(struct fs_parameter_spec *spec, const char *name);

/* file */
struct file *vfsh_backing_file_open(struct file *user, int flags,
				   const struct path *path,
				   const struct cred *cred);
bool vfsh_dir_emit(struct dir_context *ctx, const char *name, int len, u64 ino,
		  unsigned int type);
bool vfsh_dir_emit_dots(struct file *file, struct dir_context *ctx);
void vfsh_get_file(struct file *file);
u32 vfsh_file_fsuid(const struct file *file);
void vfsh_file_set_direct(struct file *file, bool direct);
void vfsh_init_sync_kiocb(struct kiocb *kiocb, struct file *file);
int vfsh_backing_fallocate(struct file *user, struct file *file, int mode,
			   loff_t offset, loff_t len);
long vfsh_file_fallocate_as_opener(struct file *file,
				   const struct file_operations *fops,
				   int mode, loff_t offset, loff_t len);
int vfsh_iterate_dir_at(struct file *file, struct dir_context *ctx);
size_t vfsh_iov_iter_count(const struct iov_iter *iter);
bool vfsh_iov_iter_is_readable(const struct iov_iter *iter);

/* mm */
bool vfsh_vma_shared_maywrite(const struct vm_area_struct *vma);
bool vfsh_vma_desc_shared_maywrite(const struct vm_area_desc *desc);
bool vfsh_vma_is_special(const struct vm_area_struct *vma);
bool vfsh_vma_desc_is_special(const struct vm_area_desc *desc);
bool vfsh_vma_maps_itself(const struct vm_area_struct *vma);
bool vfsh_file_is_hugetlb(const struct file *file);
bool vfsh_file_has_no_pages(const struct file *file);
void vfsh_module_hold(void);
void vfsh_file_released(struct file *file, const struct file_operations *host);
int vfsh_vma_ask_file(struct vm_area_struct *vma, const struct file *file);
int vfsh_file_map_writable(struct file *file);
void vfsh_file_unmap_writable(struct file *file);

/* module */
bool vfsh_module_is_live(const struct module *mod);
bool vfsh_module_in_use(struct module *mod);
void vfsh_module_wait_for_text(void);

/* char device */
int vfsh_chrdev_reserve(unsigned int major, unsigned int minors,
			const char *name);
void vfsh_chrdev_unreserve(unsigned int major, unsigned int minors);
struct cdev *vfsh_chrdev_add(unsigned int major, unsigned int minors,
			     const struct file_operations *fops);
struct class *vfsh_class_create(const char *name);
int vfsh_device_create(struct class *cls, unsigned int major,
		      unsigned int minor, const char *prefix);
void vfsh_device_destroy(struct class *cls, unsigned int major,
			unsigned int minor);
unsigned int vfsh_inode_minor(const struct inode *inode);

/* task */
u32 vfsh_current_fsuid(void);
bool vfsh_current_in_init_namespaces(void);
bool vfsh_current_in_init_pid_ns(void);
bool vfsh_current_cannot_be_signalled(void);
bool vfsh_current_is_killed(void);
bool vfsh_current_has_signal(void);
void vfsh_block_signals(sigset_t *saved);
void vfsh_unblock_signals(const sigset_t *saved);
int vfsh_current_pid(void);
int vfsh_current_pgid(void);

/* messages */
bool vfsh_may_warn(void);

/* What a file in debugfs shows: "show" writes it. */
struct vfs_shown {
	int (*show)(struct seq_file *to, const void *data, const void *how);
	const void *data;
	const void *how;
};

struct dentry *vfsh_debugfs_dir(const char *name);
void vfsh_debugfs_file(struct dentry *dir, const char *name,
		       const struct vfs_shown *shown);
void vfsh_debugfs_remove(struct dentry *dir);

#endif
